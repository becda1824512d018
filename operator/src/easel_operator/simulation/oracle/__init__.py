"""The plan by one who knows every arrival in advance, which policies are compared with."""
