"""``mpq-bench``: what bundles cost and what they give, beside full precision and int8.

``rows`` are what is compared. Each is timed (``sitting``), draws images (``drawing``) and is
profiled (``profiles``) in processes of its own; what is finished is kept by content (``store``).
``quality`` judges the images, ``report`` is all of it as data, and ``pages/`` shows that.
"""
