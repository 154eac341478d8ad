"""The tests on a real cluster. `cluster` speaks to it, `nodes` looks at its nodes, `meta` puts a meta plugin onto them, `world` is
what a case has in its hands, `cases` are the cases, `run` runs them."""
