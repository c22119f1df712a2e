"""KeyPackages through the directory: choosing those of others, publishing ours, agreeing on a cipher suite."""
