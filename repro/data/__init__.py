"""Images: data sets, how they are spread over workers, and batches of them."""
