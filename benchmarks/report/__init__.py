"""The report of `ssmt-edge bench`: its schema, and JSON, Markdown and HTML of it."""
