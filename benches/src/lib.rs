//! Benchmarks of Tagmill. Each file beside this folder is one; its head states the claim it defends.
