"""Reports for people and machines: JSON, Markdown, HTML pages, plots, terminal tables."""
