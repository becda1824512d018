"""Jobs from submit to their end, and who is next. Every transition is atomic."""
