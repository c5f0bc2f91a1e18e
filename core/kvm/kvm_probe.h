/* What this host's /dev/kvm can do, each found out by trying it with a tiny guest. For `dejavm doctor`. */
#ifndef DEJAVM_CORE_KVM_KVM_PROBE_H
#define DEJAVM_CORE_KVM_KVM_PROBE_H

#include "core/base/error.h"

enum probe_result { PROBE_YES, PROBE_NO, PROBE_UNKNOWN };

struct kvm_probe {
    const char *name;  /* "single-step-user" */
    const char *title; /* "single-step at CPL 3" */
    enum probe_result result;
    bool needed;      /* recording under kvm does not work without it */
    char detail[160]; /* what was seen: a figure, or why not */
};

#define KVM_PROBE_MAX 32

/*
 * Runs all probes (well under a second each; none hangs). Returns their number; 0 with a message when
 * /dev/kvm cannot be opened at all.
 */
unsigned kvm_probe_all(struct kvm_probe out[KVM_PROBE_MAX], struct error *err);

/* One of them by its name; false: there is none of that name. */
bool kvm_probe_one(const char *name, struct kvm_probe *out);

/* The quick answer for --engine auto: can a guest be recorded under kvm here? 0, or negative with the reason. */
int kvm_probe_usable(struct error *err) must_check;

#endif
