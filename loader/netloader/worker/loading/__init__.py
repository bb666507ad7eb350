"""The steps of a load. Each takes what the previous one returned, so no other order type-checks.

    plan    LoadRequest               -> Planned or Unshared         before there is a model
    build   that, and the model       -> Built, Unshared, BuildAgain once vLLM has built it
    fill    Built or Unshared, model  -> Filled, Prepared, BuildAgain  instead of load_weights
    finish  either of them, model     -> Complete or BuildAgain      after post-processing
    serve   Complete, model           -> Served or NotServed         after that

`failures` says what a failure in each of them costs.
"""
