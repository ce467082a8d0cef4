"""What all services share. It knows none of them."""
