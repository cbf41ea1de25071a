/*
 * Helpers: what most mappers would write themselves.
 */

/* The memory at a physical address, of all that the request names. */
static inline void *efibed_at(const efibed_request *request, uint64_t phys) {
    return (void *)(uintptr_t)(phys + request->direct_map);
}

/* How many descriptors the memory map has. */
static inline uint64_t efibed_count(const efibed_request *request) {
    return request->memory_map_bytes / request->stride;
}

/* One of them. They are `stride` bytes apart, which is more than the structure has. */
static inline efibed_descriptor *efibed_descriptor_at(const efibed_request *request, uint64_t index) {
    return (efibed_descriptor *)efibed_at(request, request->memory_map + index * request->stride);
}

/* The physical address of the next page for tables, all zeros; 0 where there are no more. */
static inline uint64_t efibed_page(const efibed_request *request, efibed_result *result) {
    uint64_t page = request->table_pool[0] + result->table_pages * 4096;
    if (page >= request->table_pool[1]) {
        return 0;
    }
    result->table_pages += 1;
    return page;
}

/* Adds a region, with its virt_start, to the map that SetVirtualAddressMap will be given; 0 where it has no room. */
static inline int efibed_push(const efibed_request *request, efibed_result *result, const efibed_descriptor *region) {
    uint64_t at = result->mapped * request->stride;
    if (at + request->stride > request->virtual_map_bytes) {
        return 0;
    }
    *(efibed_descriptor *)efibed_at(request, request->virtual_map + at) = *region;
    result->mapped += 1;
    return 1;
}

/* Adds text to the log, which the report shows. What finds no room is left out. */
static inline void efibed_log(const efibed_request *request, efibed_result *result, const char *text) {
    char *log = (char *)efibed_at(request, request->log);
    while (*text != 0 && result->log_used < request->log_bytes) {
        log[result->log_used++] = *text++;
    }
}

/* The same, for a number. */
static inline void efibed_log_hex(const efibed_request *request, efibed_result *result, uint64_t number) {
    char text[19] = "0x0000000000000000";
    for (int digit = 0; digit < 16; digit++) {
        text[17 - digit] = "0123456789abcdef"[number >> (4 * digit) & 15];
    }
    efibed_log(request, result, text);
}

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The mapping code. Before SetVirtualAddressMap: maps the regions, hands each mapped one to efibed_push, and leaves in
 * result->root the root to load. It finds there the root of the request, in which the kernel's ranges are mapped already.
 * Returns 0; any other value means that it gives up, and that its log says why.
 */
int efibed_map(const efibed_request *request, efibed_result *result);

/* After SetVirtualAddressMap, if there is such a function: drops boot services, tightens permissions. */
int efibed_finish(const efibed_request *request, efibed_result *result);

#ifdef __cplusplus
}
#endif
