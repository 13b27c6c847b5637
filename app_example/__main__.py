"""python -m app_example"""

from app_example.commands import main

if __name__ == "__main__":
    main()
