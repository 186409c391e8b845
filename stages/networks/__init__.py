"""Networks, and how published weights get into them."""
