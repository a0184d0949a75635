#ifndef MOONRAFT_CLUASYSTEM_H
#define MOONRAFT_CLUASYSTEM_H
// Only the C target CLua includes Lua's headers; Swift never sees them, since every call that can raise
// a Lua error jumps with longjmp and must not cross a Swift frame.
#endif
