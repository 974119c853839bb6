"""Drawing what a model sees and says: predictions on pictures, and maps of what it looks at. Imports no Paddle."""
