"""What makes a loaded model faster or smaller, and leaves what its pipelines do alone."""
