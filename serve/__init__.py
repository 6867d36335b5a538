"""The Ray Serve application: ad hoc questions to the champion."""
