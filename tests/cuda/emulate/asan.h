// SPDX-License-Identifier: MIT
// Whether AddressSanitizer is on, for every compiler by one name.
#ifndef MOE_EMULATE_ASAN_H
#define MOE_EMULATE_ASAN_H

#ifdef __SANITIZE_ADDRESS__
#define MOE_EMULATE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOE_EMULATE_ASAN 1
#endif
#endif

#endif
