"""A world of links, jobs and workers that Hypothesis makes stories of."""
