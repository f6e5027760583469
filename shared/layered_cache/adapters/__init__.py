"""The parts that adapters of frameworks share: cached calls and streams, codecs, prices, identities."""
