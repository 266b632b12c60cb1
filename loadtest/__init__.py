"""The load tester: a seeded plan, played by Locust, recorded raw, judged by gates, compared in pairs.

`runner.run_load_test` is the whole of it in one process that never imports Locust; `locustfile.py` is what Locust
loads, by the runner's hand or by a person's.
"""
