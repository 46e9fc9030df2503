"""From records to numbers, intervals and verdicts. Nothing here is laid out or drawn."""
