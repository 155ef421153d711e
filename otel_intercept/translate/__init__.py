"""Turn records into OTel spans and metric points, off the event loop."""
