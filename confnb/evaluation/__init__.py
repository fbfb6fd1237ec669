"""Your model: from words to objects, the report and its page."""
