"""What a running server tells about itself: metrics and traces."""
