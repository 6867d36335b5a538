"""The Label Studio door: the labeling page, drafts on their way out, reviews on their way in."""
