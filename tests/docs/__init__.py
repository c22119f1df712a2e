"""The pages of the site: what they show works, and what they must name is named."""
