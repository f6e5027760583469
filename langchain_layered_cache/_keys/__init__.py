"""Keys of LangChain requests: messages, model settings and clients."""
