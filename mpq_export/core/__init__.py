"""The MPQ core: what the integers are, and how weights and activations become them."""
