"""The steps of a load. Each takes what the previous one returned, so no other order type-checks.

    plan    LoadRequest               -> Planned or Unshared         before there is a model
    build   that, and the model       -> Built, Unshared, BuildAgain once vLLM has built it
    fill    Built or Unshared, model  -> Filled or BuildAgain        instead of vLLM's load_weights
    serve   Filled, model             -> Served or NotServed         after post-processing

`failures` says what a failure in each of them costs.
"""
