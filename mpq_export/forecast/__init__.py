"""What an export will need and give, said before anything runs."""
