"""Images by what determines them."""
