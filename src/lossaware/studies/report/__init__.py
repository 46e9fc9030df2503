"""Everything a person reads: text, Markdown, LaTeX, CSV, HTML and pictures."""
