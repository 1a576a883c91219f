"""``make ablation``: which part of quantisation-aware training pays, on the models shipped here."""
