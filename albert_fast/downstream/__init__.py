"""After pretraining: fine-tuning classifiers of sentences and pairs, scoring them, looking at predictions."""
