"""The callbacks of LangChain that the cache uses: runs of models, runs of graphs, refused answers."""
