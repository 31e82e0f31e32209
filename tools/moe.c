// SPDX-License-Identifier: MIT
// The `moe` command: which subcommand is meant, and the page that lists them.
#include <stdio.h>
#include <string.h>

#include "options.h"
#include "tool.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"info", cmd_info, "what a model file holds, or what this build can do"},
    {"run", cmd_run, "the MoE block of one layer on an array of activations"},
    {"check", cmd_check, "every layer against the reference beside the model"},
    {"bench", cmd_bench, "speed of a layer, and the machine's limit in the same run"},
    {"convert", cmd_convert, "a model to a GGUF file in another weight format"},
};
#define NUM_COMMANDS (sizeof commands / sizeof commands[0])

static void print_help(void)
{
    puts("Usage: moe COMMAND ...\n\n"
         "Inspect, run, verify, time and convert Mixture-of-Experts models. MODEL is a .gguf file (any part of a\n"
         "split set) or a Hugging Face directory (config.json with safetensors).\n\nCommands:");
    for (size_t i = 0; i < NUM_COMMANDS; i++)
        printf("  %-9s %s\n", commands[i].name, commands[i].summary);
    puts("\n`moe COMMAND --help` explains a command, with options and examples; `moe --version` prints the version.\n\n"
         "Examples:\n"
         "  moe info models/bard                            what is in there, and how it routes\n"
         "  moe check models/bard                           does every layer compute what its reference says?\n"
         "  moe convert models/bard bard.gguf --format q8_0\n"
         "  moe bench --shape 2048,768,128,8 --format q8_0 --tokens 1,64\n\n"
         "Exit status: 0 success, 1 a check failed, 2 wrong usage, 3 input that cannot be used.");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        tool_fail(TOOL_USAGE, "a command is missing: info, run, check, bench or convert (`moe --help` explains)");
        return TOOL_USAGE;
    }
    const char *name = argv[1];
    for (size_t i = 0; i < NUM_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return tool_flush(commands[i].run(argc - 1, argv + 1));
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        if (argc > 2 && name[0] == 'h')
            for (size_t i = 0; i < NUM_COMMANDS; i++)
                if (strcmp(argv[2], commands[i].name) == 0)
                    return tool_flush(commands[i].run(2, (char *[]){argv[2], "--help", NULL}));
        print_help();
        return tool_flush(TOOL_OK);
    }
    if (strcmp(name, "--version") == 0) {
        printf("moe %s (ABI %u)\n", moe_version(), (unsigned)moe_abi_version());
        return tool_flush(TOOL_OK);
    }
    const char *names[NUM_COMMANDS + 1] = {NULL};
    for (size_t i = 0; i < NUM_COMMANDS; i++)
        names[i] = commands[i].name;
    const char *near = options_nearest(name, names);
    if (near)
        return tool_fail(TOOL_USAGE, "there is no command '%s'; did you mean '%s'?", name, near);
    return tool_fail(TOOL_USAGE, "there is no command '%s'; `moe --help` lists them", name);
}
