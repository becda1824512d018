"""What an image says of how it was made, in the two forms that it carries: AUTOMATIC1111's text, and JSON."""
