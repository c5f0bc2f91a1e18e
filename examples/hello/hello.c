/* The smallest guest: prints, and exits with a status. Command line: exit=STATUS */
#include "guest.h"

void guest_main(void)
{
    print("Hello from long mode!\n");
    print("command line: \"%s\"\n", command_line());
    guest_exit((uint8_t)option_number("exit", 0));
}
