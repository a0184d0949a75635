// Exposes the system's libnghttp2 (Debian: libnghttp2-dev) to Swift.
#ifndef MOONRAFT_CNGHTTP2_SHIM_H
#define MOONRAFT_CNGHTTP2_SHIM_H

#include <nghttp2/nghttp2.h>

#endif
