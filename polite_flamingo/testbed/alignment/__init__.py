"""The paper on preference alignment (Li, Lin, Pei 2024, arXiv 2402.10884), repeated on Shapes."""
