from autonvis.cli import main

main()
