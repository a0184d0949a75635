// The LMDB C interface as installed by Debian's liblmdb-dev.
#ifndef MOONRAFT_CLMDB_H
#define MOONRAFT_CLMDB_H

#include <lmdb.h>

#endif
