// Exposes the system's zlib (Debian: zlib1g-dev) to Swift.
#ifndef MOONRAFT_CZLIB_SHIM_H
#define MOONRAFT_CZLIB_SHIM_H

#include <zlib.h>

#endif
