"""Output for readers: text, Markdown, LaTeX, CSV, HTML and plots."""
