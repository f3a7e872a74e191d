<?xml version="1.0" encoding="UTF-8"?>
<!-- The identifiers of strings.xml, which the Android SDK makes where it builds the app: a name that is not there does not compile. -->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="text" encoding="UTF-8"/>
  <xsl:template match="/resources">
    <xsl:text>package org.asrdeploy.bench&#10;&#10;object R {&#10;    object string {&#10;</xsl:text>
    <xsl:for-each select="string">
      <xsl:value-of select="concat('        const val ', @name, ' = ', position(), '&#10;')"/>
    </xsl:for-each>
    <xsl:text>    }&#10;}&#10;</xsl:text>
  </xsl:template>
</xsl:stylesheet>
