# Makes the page of `vvtq inspect --html` from its parts, as a C++ file: cmake -DPAGE=FOLDER -DD3=FILE -DLICENCE=FILE -DOUT=FILE
# -P embed_page.cmake. page.html has a line for each part: <!--css-->, <!--d3-->, <!--scripts-->; at <!--inspection--> the page is cut
# in two, because the numbers of a checkpoint come there.
set(names quantizer.js dom.js save.js chart.js table.js overview.js tree.js staircase.js step.js attention.js training.js compare.js main.js)
set(scripts "")
foreach(name IN LISTS names)
  file(READ ${PAGE}/${name} text)
  string(APPEND scripts "// ${name}\n${text}\n")
endforeach()
file(READ ${PAGE}/page.css css)
file(READ ${D3} d3)
file(READ ${LICENCE} licence)
file(READ ${PAGE}/page.html page)
string(REPLACE "<!--css-->" "<style>\n${css}</style>" page "${page}")
string(REPLACE "<!--d3-->" "<script>\n/*\n${licence}*/\n${d3}</script>" page "${page}")
string(REPLACE "<!--scripts-->" "<script>\n(() => {\n'use strict';\n${scripts}})();\n</script>" page "${page}")
string(REPLACE "<!--inspection-->" ")vvtq\";\nconst char* const kPageAfter = R\"vvtq(" page "${page}")
file(WRITE ${OUT} "// Made by cmake/embed_page.cmake.
#include \"apps/commands/inspect_page.h\"
namespace vvtq::apps {
const char* const kPageBefore = R\"vvtq(${page})vvtq\";
}  // namespace vvtq::apps
")
