/* What `efibed build --coverage` links to mapping code that counts what it runs: a byte for each edge, in the section that
 * LLVM gives them, where efibed finds them. Nothing here is compiled to count. */

/* GCC calls this in each block. An edge is a block and the one before it; now and then two of some hundred share a byte. */
enum { COUNTERS = 1 << 13 };

__attribute__((section("__sancov_cntrs"))) static unsigned char counters[COUNTERS];

static unsigned long previous;

void __sanitizer_cov_trace_pc(void) {
    unsigned long block = (unsigned long)__builtin_return_address(0) * 0x9e3779b97f4a7c15ul >> 32;
    unsigned char *counter = &counters[(block ^ previous) % COUNTERS];
    previous = block >> 1;
    if (*counter != 255)
        ++*counter;
}

/* LLVM counts without a call. These are for constructors that tell a fuzzer in the same process where; nothing calls those. */
void __sanitizer_cov_8bit_counters_init(unsigned char *start, unsigned char *stop) {
    (void)start, (void)stop;
}

void __sanitizer_cov_pcs_init(const unsigned long *start, const unsigned long *stop) {
    (void)start, (void)stop;
}
