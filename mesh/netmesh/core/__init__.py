"""The gossip protocol without any I/O: events and the time go in, effects come out.

SWIM with Lifeguard: a failure detector, suspicion, refutation by incarnation, rumours spread by
gossip and piggybacking, and anti-entropy. Nothing in this package opens a socket, reads a clock or
draws its own random numbers; the shell (`netmesh.io`) and the simulator (`netsim`) drive the same
`Engine`.

The parts, from the roof down; each imports only from lines below its own (a test compares):

    engine              hands events to the parts and returns their effects
    joining             contacts, until my table equals one of theirs
    antientropy leaving
    view dissemination  what is believed, and what is told
    ingest refutation fetches verdicts detection relaying tombstones
    node                the state that the parts share
    changes             one function applies a claim
    states              the transition table
    rumours prober reconciliation effects wire
    events fields
    table suspicion messages
    accusation_limits health claims member reach rng
    records timers settings
    backoff
"""
