"""Messages for wrong command lines: the mistake and its remedy."""

import re

from cyclopts import CycloptsError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError


def explain(error: CycloptsError) -> str:
    """The mistake in one line, with its remedy if one is known."""
    if isinstance(error, UnusedCliTokensError):
        unused = list(error.unused_tokens or [])
        if unused and all(re.fullmatch(r"auto|[-+]?[\d.]+(e[-+]?\d+)?", word, re.IGNORECASE) for word in unused):
            return f"unexpected argument {' '.join(unused)!r}: separate several values by commas, as in --lrs 1e-4,1e-3"
        return f"unexpected argument {' '.join(unused)!r}"
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.keyword is None:
        name = error.argument.name
        if name.startswith("--") and error.argument.field_info.is_positional:
            command = " ".join(error.command_chain or ())
            return f"{command} needs {name.removeprefix('--').upper()}: see lossaware {command} --help"
    if isinstance(error, UnknownOptionError) and "Did you mean" not in (text := str(error)):
        option = (error.token.keyword or error.token.value).removeprefix("--").replace("-", "_")
        if "compare" in (error.command_chain or ()):
            whose = "an option of the task, the optimizer or the function"
            return f"{text.rstrip('.')}; {whose} is set with --set {option}=VALUE"
    return str(error)
