"""From records to numbers, intervals and verdicts, without layout and plots."""
