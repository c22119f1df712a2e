"""KeyPackages in the directory: choosing those of other devices, publishing ours, choosing a cipher suite."""
