"""Tasks, runs and studies: the evidence whether LGA helps. Needs the extra ``studies``."""
