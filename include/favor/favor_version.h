/* The version of favor, for the preprocessor. CMakeLists.txt reads it from here. */
#ifndef FAVOR_FAVOR_VERSION_H
#define FAVOR_FAVOR_VERSION_H

#define FAVOR_VERSION_MAJOR 0
#define FAVOR_VERSION_MINOR 1
#define FAVOR_VERSION_PATCH 0
#define FAVOR_VERSION "0.1.0"

#endif
